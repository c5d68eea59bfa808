import time

from celery import shared_task
from ws4redis.publisher import RedisPublisher


@shared_task(bind=True)
def work(self, username, total):
    publisher = RedisPublisher(facility=f"progress-{self.request.id}", users=[username])
    for done in range(1, total + 1):
        time.sleep(0.1)
        publisher.publish_json({"done": done, "total": total})
