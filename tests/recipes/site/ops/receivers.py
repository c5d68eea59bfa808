from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from ws4redis.publisher import RedisPublisher


@receiver(user_login_failed)
def report(credentials, **kwargs):
    publisher = RedisPublisher(facility="ops", groups=["staff"])
    publisher.publish_json({"failed": credentials.get("username")})
