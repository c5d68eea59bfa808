from django.conf import settings
from django.db import models


class Message(models.Model):
    room = models.SlugField()
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    text = models.TextField()
    sent = models.DateTimeField(auto_now_add=True)

    def as_json(self):
        return {"id": self.pk, "author": self.author.get_username(), "text": self.text}
